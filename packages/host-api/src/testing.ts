export { imageOf, layoutOf, tarOf, type TestEntry, type TestImage } from "./testing/oci-image.ts";
export { tinySystem } from "./testing/tiny-system.ts";
