export { Images, isOwnBox, type ImagesOptions } from "./images.ts";
