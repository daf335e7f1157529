import assert from "node:assert/strict";
import { Api, visit, type Answer, type Json, type StreamRead } from "./api.ts";
import type { RunningPlatform } from "./platform.ts";

/** What the parts of the contract test share: one platform, one sandbox, and all that was answered. */
export interface Scene {
  readonly api: Api;
  /** Set once the platform runs. */
  platform: RunningPlatform;
  /** The sandbox that most tests share. */
  box: string;
  /** Opened first and read last, so that its heartbeat costs no waiting. */
  tenantEvents: Promise<StreamRead>;
  /** Pages that were visited by public name. */
  readonly pages: Answer[];
  /** Texts that a tenant's user can see and that are no HTTP answer. */
  readonly seen: { where: string; text: string }[];
  readonly open: (url: string, path?: string) => Promise<Answer>;
  readonly ok: (answer: Answer, status?: number) => Answer;
  readonly refused: (answer: Answer, status: number, code: string) => Json;
}

export function createScene(): Scene {
  const ok = (answer: Answer, status = 200): Answer => {
    assert.equal(answer.status, status, `${answer.method} ${answer.path}: ${answer.text.slice(0, 1500)}`);
    return answer;
  };
  const refused = (answer: Answer, status: number, code: string): Json => {
    const { error } = ok(answer, status).json as { error: Json };
    assert.equal(error["code"], code, answer.text);
    return error;
  };
  const scene: Scene = {
    api: new Api(),
    platform: undefined as unknown as RunningPlatform,
    box: "",
    tenantEvents: Promise.resolve({ status: 0, headers: {}, events: [], comments: [], ended: true }),
    pages: [],
    seen: [],
    ok,
    refused,
    open: async (url, path = "/") => {
      const page = await visit(scene.platform.port, url, path);
      scene.pages.push(page);
      return page;
    },
  };
  return scene;
}
