export { CertificateStore, type CertificateSource } from "./certificate-store.ts";
export { DevelopmentCertificates } from "./development-certificates.ts";
