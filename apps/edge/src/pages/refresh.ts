import { createHash } from "node:crypto";
import { edgePageHeader } from "@platform/edge-api";

/** Seconds between two looks of a waiting page. */
export const LOOK_EVERY_SEC = 2;

/**
 * Looks whether the app answers by now, shows how far the wait is, and opens the app. A reload every two
 * seconds would take away the focus and what a screen reader is saying; it remains for browsers without
 * scripts.
 */
export const refreshScript: string = `(()=>{const look=()=>setTimeout(async()=>{try{
const r=await fetch(location.href,{headers:{accept:"text/html"},cache:"no-store",redirect:"manual"});
if(r.headers.get("${edgePageHeader}")!=="starting")return location.reload();
const d=new DOMParser().parseFromString(await r.text(),"text/html"),n=d.getElementById("wait"),o=document.getElementById("wait");
if(n&&o)o.replaceWith(n)}catch{/* The network may be back at the next look. */}look()},${LOOK_EVERY_SEC * 1000});look()})()`;

/** For the page's policy: no other script runs. */
export const refreshScriptHash = `'sha256-${createHash("sha256").update(refreshScript).digest("base64")}'`;
