export { AcmeChallenges, acmeProtocol } from "./acme-challenges.ts";
export { CertificateCopy, type IndexEntry } from "./certificate-copy.ts";
export { CertificateFeed } from "./certificate-feed.ts";
export { CertificateRequests } from "./certificate-requests.ts";
export { CertificateStore, type CertificateSource } from "./certificate-store.ts";
export { DevelopmentCertificates } from "./development-certificates.ts";
export { IssuedCertificates } from "./issued-certificates.ts";
export { handshakeOptions, isChallengeConnection } from "./handshake.ts";
export { acceptProxied, nameClient } from "./proxied.ts";
