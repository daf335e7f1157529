import { allowQuery, type Call, sendXml } from "./call.ts";
import { S3Error, type S3ErrorCode } from "./s3-error.ts";
import { renderXml } from "./xml.ts";

/**
 * Who may use a bucket or an object is said by its keys and by whether it is public; clients that ask for a list of
 * grants see that its owner has all.
 */
export function sendAcl(call: Call): void {
  allowQuery(call, "acl", "versionId");
  const { id } = call.bucket;
  const owner = { ID: id, DisplayName: id };
  const grant = `<Grant><Grantee xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="CanonicalUser"><ID>${id}</ID><DisplayName>${id}</DisplayName></Grantee><Permission>FULL_CONTROL</Permission></Grant>`;
  const empty = renderXml("AccessControlPolicy", { Owner: owner, AccessControlList: "" });
  sendXml(
    call,
    empty.replace(
      "<AccessControlList></AccessControlList>",
      `<AccessControlList>${grant}</AccessControlList>`,
    ),
  );
}

const absent =
  (parameter: string, code: S3ErrorCode) =>
  (call: Call): void => {
    allowQuery(call, parameter);
    throw new S3Error(code);
  };

const document =
  (parameter: string, root: string, members = {}) =>
  (call: Call): void => {
    allowQuery(call, parameter);
    sendXml(call, renderXml(root, members));
  };

/** What a bucket does not have, as clients expect to hear it when they describe one. */
export const bucketAnswers: readonly [parameter: string, handle: (call: Call) => void][] = [
  ["acl", sendAcl],
  ["policy", absent("policy", "NoSuchBucketPolicy")],
  ["policyStatus", absent("policyStatus", "NoSuchBucketPolicy")],
  ["website", absent("website", "NoSuchWebsiteConfiguration")],
  ["encryption", absent("encryption", "ServerSideEncryptionConfigurationNotFoundError")],
  ["object-lock", absent("object-lock", "ObjectLockConfigurationNotFoundError")],
  ["replication", absent("replication", "ReplicationConfigurationNotFoundError")],
  ["publicAccessBlock", absent("publicAccessBlock", "NoSuchPublicAccessBlockConfiguration")],
  ["ownershipControls", absent("ownershipControls", "OwnershipControlsNotFoundError")],
  ["notification", document("notification", "NotificationConfiguration")],
  ["logging", document("logging", "BucketLoggingStatus")],
  ["accelerate", document("accelerate", "AccelerateConfiguration")],
  ["requestPayment", document("requestPayment", "RequestPaymentConfiguration", { Payer: "BucketOwner" })],
];
