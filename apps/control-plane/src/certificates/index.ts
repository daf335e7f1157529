export { certificateHandlers } from "./routes.ts";
export { registerCertificateFeed } from "./feed.ts";
export { createCertificateStep } from "./step.ts";
export { tidyChallenges } from "./challenges.ts";
export { keepDelegations } from "./delegations.ts";
export { warnOfExpiry } from "./upload.ts";
export { subjectOf } from "./names.ts";
export { certificateFor, certificateView, wantCertificate } from "./store.ts";
export { AcmeConfig, readAcmeSettings, type AcmeSettings, type ChallengeType } from "./settings.ts";
