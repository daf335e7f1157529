/** Imports point one way: apps -> packages -> contract. */
module.exports = {
  forbidden: [
    { name: "no-cycles", severity: "error", from: {}, to: { circular: true } },
    {
      name: "apps-never-import-apps",
      severity: "error",
      from: { path: "^apps/([^/]+)/" },
      to: { path: "^apps/([^/]+)/", pathNot: "^apps/$1/" },
    },
    {
      name: "packages-never-import-apps",
      severity: "error",
      from: { path: "^packages/" },
      to: { path: "^apps/" },
    },
    {
      name: "contract-imports-no-package",
      severity: "error",
      from: { path: "^packages/contract/" },
      to: { path: "^packages/(?!contract/)" },
    },
    {
      name: "packages-by-their-door",
      severity: "error",
      from: { path: "^(apps|packages)/([^/]+)/" },
      to: {
        path: "^packages/([^/]+)/src/",
        pathNot: ["^packages/[^/]+/src/(index|testing)\\.ts$", "^$1/$2/"],
      },
    },
    {
      name: "features-by-their-door",
      severity: "error",
      from: { path: "^apps/control-plane/src/([^/]+)/" },
      to: {
        path: "^apps/control-plane/src/([^/]+)/.+",
        pathNot: ["^apps/control-plane/src/$1/", "/index\\.ts$"],
      },
    },
    {
      name: "drivers-never-meet",
      // linux/ and microvm/ hold what several drivers are made of, conformance/ what all of them must pass.
      severity: "error",
      from: { path: "^apps/host/src/(drivers|engines)/([^/]+)/" },
      to: {
        path: "^apps/host/src/$1/([^/]+)/",
        pathNot: "^apps/host/src/($1/$2|drivers/(linux|microvm|conformance)|engines/dedicated)/",
      },
    },
    {
      name: "e2e-knows-only-urls",
      severity: "error",
      from: { path: "^e2e/" },
      to: { path: "^(apps|packages)/" },
    },
  ],
  options: {
    doNotFollow: { path: "node_modules" },
    exclude: { path: "(^|/)(node_modules|dist|\\.toolchain|\\.data)/" },
    tsPreCompilationDeps: true,
    tsConfig: { fileName: "tsconfig.json" },
    enhancedResolveOptions: { exportsFields: ["exports"], conditionNames: ["import", "node", "default"] },
  },
};
