export { Images, isOwnBox, type ImagesOptions } from "./images.ts";
export { readRegistries } from "./oci/registry.ts";
