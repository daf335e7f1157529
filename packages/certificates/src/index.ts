export { authorityName, openAuthority, type Authority, type IssuedCertificate } from "./authority.ts";
export { challengeCertificate } from "./challenge.ts";
export {
  CertificateRefused,
  inspectCertificate,
  namesOf,
  splitChain,
  type CertificateFault,
  type Inspected,
} from "./inspect.ts";
