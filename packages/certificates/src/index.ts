export { authorityName, openAuthority, type Authority, type IssuedCertificate } from "./authority.ts";
