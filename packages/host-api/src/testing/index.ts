export { imageOf, layoutOf, tarOf, type TestEntry, type TestImage } from "./oci-image.ts";
export { tinySystem } from "./tiny-system.ts";
