/** Codes of the protocol with their status and default text. */
export const s3Errors = {
  AccessDenied: [403, "Access denied."],
  AuthorizationHeaderMalformed: [400, "The authorization header is malformed."],
  AuthorizationQueryParametersError: [400, "The signature's query parameters are malformed."],
  BadDigest: [400, "The checksum sent does not match the content received."],
  BadRequest: [400, "The request is not valid."],
  BucketAlreadyOwnedByYou: [409, "The bucket exists and is yours."],
  EntityTooLarge: [400, "The object is larger than 5 TiB, or the part or single upload than 5 GiB."],
  EntityTooSmall: [400, "A part other than the last is smaller than 5 MiB."],
  IncompleteBody: [400, "The body ended before the length that was announced."],
  ServiceUnavailable: [503, "The store is not available now. Retry."],
  InternalError: [500, "Something failed on this side. Retry."],
  InvalidAccessKeyId: [403, "The access key id is not known here."],
  InvalidArgument: [400, "An argument is not valid."],
  InvalidDigest: [400, "The Content-MD5 is not valid."],
  InvalidPart: [400, "A part was not uploaded, or its entity tag differs."],
  InvalidPartOrder: [400, "The parts are not in ascending order."],
  InvalidRange: [416, "The range cannot be satisfied."],
  InvalidTag: [
    400,
    "A tag has a key of 1 to 128 characters and a value of up to 256, of letters, digits, spaces and _.:/=+-@.",
  ],
  InvalidPolicyDocument: [400, "The policy is not valid."],
  InvalidRequest: [400, "The request is not valid."],
  KeyTooLongError: [400, "The key is longer than 1024 bytes."],
  MalformedXML: [400, "The XML is not well-formed or not what this call takes."],
  MethodNotAllowed: [405, "The method is not allowed for this resource."],
  MissingContentLength: [411, "Send a Content-Length."],
  NoSuchBucket: [404, "The bucket does not exist."],
  MalformedPOSTRequest: [400, "The body is not a well-formed multipart/form-data form."],
  NoSuchBucketPolicy: [404, "The bucket has no policy: its keys say who may do what."],
  NoSuchCORSConfiguration: [404, "The bucket has no CORS rules."],
  NoSuchKey: [404, "The key does not exist."],
  NoSuchLifecycleConfiguration: [404, "The bucket has no lifecycle rules."],
  NoSuchPublicAccessBlockConfiguration: [404, "The bucket has no such setting."],
  NoSuchTagSet: [404, "There are no tags."],
  NoSuchUpload: [404, "The upload does not exist: it was completed or aborted."],
  NoSuchVersion: [404, "The version does not exist."],
  NoSuchWebsiteConfiguration: [404, "The bucket is not a website."],
  NotImplemented: [501, "This function is not implemented."],
  ObjectLockConfigurationNotFoundError: [404, "The bucket has no object lock."],
  OwnershipControlsNotFoundError: [404, "The bucket has no such setting."],
  PreconditionFailed: [412, "A precondition does not hold."],
  QuotaExceeded: [403, "The bucket's quota is used up. Delete objects or raise the quota, then retry."],
  ReplicationConfigurationNotFoundError: [404, "The bucket is not replicated."],
  ServerSideEncryptionConfigurationNotFoundError: [404, "The bucket has no encryption setting."],
  RequestExpired: [403, "The presigned URL has expired."],
  RequestTimeTooSkewed: [403, "The request's time differs from this server's by more than 15 minutes."],
  SignatureDoesNotMatch: [403, "The signature does not match. Check secret key and signing method."],
  XAmzContentSHA256Mismatch: [400, "The x-amz-content-sha256 header does not match the content."],
} as const satisfies Record<string, readonly [number, string]>;

export type S3ErrorCode = keyof typeof s3Errors;

/** An answer of the protocol other than success. */
export class S3Error extends Error {
  readonly code: S3ErrorCode;
  readonly status: number;
  constructor(code: S3ErrorCode, message?: string, options?: ErrorOptions) {
    super(message ?? s3Errors[code][1], options);
    this.name = "S3Error";
    this.code = code;
    this.status = s3Errors[code][0];
  }
}
