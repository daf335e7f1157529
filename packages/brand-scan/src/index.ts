export { ask, type Answer, type Asked, type Connection } from "./ask.ts";
export { crawl, read, type Crawl, type Crawled } from "./crawl.ts";
export { readCertificate } from "./certificate.ts";
export { readDns } from "./dns.ts";
export { Findings, type Extra, type Finding } from "./findings.ts";
