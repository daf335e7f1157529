/**
 * JSON Schemas of the OCI image format 1.1, written from its specification. Only what it demands: further
 * members are allowed, as it allows them.
 *
 * @see https://github.com/opencontainers/image-spec
 */
const mediaType = {
  type: "string",
  pattern: "^[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}(;.*)?$",
};
const digest = { type: "string", pattern: "^[a-z0-9]+(?:[+._-][a-z0-9]+)*:[a-zA-Z0-9=_-]+$" };
const annotations = { type: "object", additionalProperties: { type: "string" } };
const platform = {
  type: "object",
  required: ["architecture", "os"],
  properties: { architecture: { type: "string" }, os: { type: "string" }, variant: { type: "string" } },
};

export const descriptorSchema = {
  type: "object",
  required: ["mediaType", "size", "digest"],
  properties: {
    mediaType,
    digest,
    size: { type: "integer", minimum: 0, maximum: Number.MAX_SAFE_INTEGER },
    urls: { type: "array", items: { type: "string", format: "uri" } },
    data: { type: "string" },
    artifactType: mediaType,
    annotations,
    platform,
  },
};

export const layoutSchema = {
  type: "object",
  required: ["imageLayoutVersion"],
  properties: { imageLayoutVersion: { type: "string", enum: ["1.0.0"] } },
};

export const indexSchema = {
  type: "object",
  required: ["schemaVersion", "manifests"],
  properties: {
    schemaVersion: { type: "integer", const: 2 },
    mediaType: { const: "application/vnd.oci.image.index.v1+json" },
    artifactType: mediaType,
    subject: descriptorSchema,
    manifests: { type: "array", items: descriptorSchema },
    annotations,
  },
};

export const manifestSchema = {
  type: "object",
  required: ["schemaVersion", "config", "layers"],
  properties: {
    schemaVersion: { type: "integer", const: 2 },
    mediaType: { const: "application/vnd.oci.image.manifest.v1+json" },
    artifactType: mediaType,
    config: descriptorSchema,
    subject: descriptorSchema,
    layers: { type: "array", minItems: 1, items: descriptorSchema },
    annotations,
  },
  // Without a config of its own, an artifact says by another member what it is.
  if: {
    properties: { config: { properties: { mediaType: { const: "application/vnd.oci.empty.v1+json" } } } },
  },
  then: { required: ["artifactType"] },
};

const words = { type: "array", items: { type: "string" } };
const set = { type: "object", additionalProperties: { type: "object", maxProperties: 0 } };

export const configSchema = {
  type: "object",
  required: ["architecture", "os", "rootfs"],
  properties: {
    created: { type: "string", format: "date-time" },
    author: { type: "string" },
    architecture: { type: "string" },
    os: { type: "string" },
    config: {
      type: "object",
      properties: {
        User: { type: "string" },
        ExposedPorts: { ...set, propertyNames: { pattern: "^\\d+(/(tcp|udp))?$" } },
        Env: { type: "array", items: { type: "string", pattern: "^.+=.*$" } },
        Entrypoint: words,
        Cmd: words,
        Volumes: set,
        WorkingDir: { type: "string" },
        Labels: { type: "object", additionalProperties: { type: "string" } },
        StopSignal: { type: "string" },
      },
    },
    rootfs: {
      type: "object",
      required: ["type", "diff_ids"],
      properties: { type: { const: "layers" }, diff_ids: { type: "array", items: digest } },
    },
    history: { type: "array", items: { type: "object" } },
  },
};
