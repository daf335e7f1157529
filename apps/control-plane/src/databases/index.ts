export { createDatabase, createLinkedDatabase, type LinkOwner } from "./create.ts";
export { attachDatabase, mainDatabaseOf, onAttach, onRenewal } from "./attach.ts";
export { databaseAccessHandlers } from "./access.ts";
export { databaseHandlers } from "./routes.ts";
export { createArchiveStep } from "./archive.ts";
export { createBackupStep } from "./backups.ts";
export { branchLinks, endBranchesOf } from "./copies.ts";
export { createDatabaseStep } from "./reconciler.ts";
export { loadDatabase, ownDatabase } from "./store.ts";
