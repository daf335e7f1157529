/*
 * A program that is called like the jailer and then behaves like Firecracker: its control interface with
 * its states, held against its own description. Behind its vsock runs the guest's own bridge.
 * Usage: node model.ts FOLDER (jailer arguments); FOLDER holds `bridge`, `guest.sock` and, to break it, `fault`.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { appendFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { createServer as createHttpServer, type IncomingMessage, type ServerResponse } from "node:http";
import { connect, createServer, type Socket } from "node:net";
import { basename, join } from "node:path";
import { parseArgs } from "node:util";
import { ApiDescription } from "./description.ts";

type State = "Not started" | "Running" | "Paused";
type Body = Record<string, unknown>;

class Refused extends Error {}
const refuse = (message: string): never => {
  throw new Refused(message);
};

const folder = process.argv[2] ?? "";
const description = new ApiDescription();
const afterStart = "The requested operation is not supported after starting the microVM.";
const beforeStart = "The requested operation is not supported before starting the microVM.";

function enterChroot(): { id: string; socket: string } {
  const rest = process.argv.slice(3);
  const split = rest.indexOf("--");
  const text = { type: "string" } as const;
  const { values } = parseArgs({
    args: rest.slice(0, split),
    options: {
      ...{ id: text, "exec-file": text, uid: text, gid: text, "chroot-base-dir": text },
      ...{ "resource-limit": { type: "string", multiple: true }, netns: text, "parent-cgroup": text },
    },
  });
  const { values: own } = parseArgs({ args: rest.slice(split + 1), options: { "api-sock": text } });
  const id = values.id ?? "";
  if (!/^[A-Za-z0-9-]{1,64}$/.test(id)) throw new Error("the jailer refuses this id");
  if (!Number(values.uid) || !Number(values.gid))
    throw new Error("the jailer needs an unprivileged uid and gid");
  for (const limit of values["resource-limit"] ?? []) {
    if (!/^(fsize|no-file)=\d+$/.test(limit)) throw new Error(`the jailer knows no limit ${limit}`);
  }
  const root = join(values["chroot-base-dir"] ?? "", basename(values["exec-file"] ?? ""), id, "root");
  mkdirSync(root, { recursive: true });
  process.chdir(root);
  return { id, socket: own["api-sock"] ?? "run/firecracker.socket" };
}

/** What one machine was told, and what it does. */
class Model {
  readonly id: string;
  #state: State = "Not started";
  #config: Record<string, Body> = {};
  #guest: ChildProcess | null = null;

  constructor(id: string) {
    this.id = id;
  }

  handle(method: string, path: string, body: Body): Body | undefined {
    const name = path.split("/")[1] ?? "";
    if (method === "GET" && path === "/") {
      return { app_name: "Firecracker", id: this.id, state: this.#state, vmm_version: "1.17.0" };
    }
    if (method === "PATCH" && name === "vm") return this.#patchVm(body);
    if (path === "/snapshot/create") return this.#save(body);
    if (this.#state !== "Not started") return refuse(afterStart);
    if (path === "/snapshot/load") return this.#load(body);
    if (path === "/actions") return this.#act(body);
    for (const file of [
      body["kernel_image_path"],
      body["initrd_path"],
      body["path_on_host"],
      body["metrics_path"],
    ]) {
      if (typeof file === "string" && !existsSync(file))
        refuse(`Unable to open ${file}: No such file or directory`);
    }
    if (name === "drives" && body["drive_id"] !== path.split("/")[2])
      refuse("The drive's id is not the path's.");
    this.#config[path] = body;
    return undefined;
  }

  #patchVm(body: Body): undefined {
    if (this.#state === "Not started") refuse(beforeStart);
    const wanted = body["state"] === "Paused" ? "Paused" : "Running";
    if (wanted === this.#state) refuse(`The microVM is already ${wanted}.`);
    this.#state = wanted;
    this.#guest?.kill(wanted === "Paused" ? "SIGSTOP" : "SIGCONT");
  }

  #act(body: Body): undefined {
    if (body["action_type"] !== "InstanceStart") refuse("This action is not modelled.");
    if (!this.#config["/boot-source"]) refuse("Cannot start microvm without kernel configuration.");
    this.#run();
    this.#state = "Running";
  }

  #save(body: Body): undefined {
    if (this.#state === "Not started") refuse(beforeStart);
    if (this.#state !== "Paused") refuse("Cannot save a running microVM: pause it first.");
    writeFileSync(String(body["snapshot_path"]), JSON.stringify(this.#config), { flag: "wx" });
    writeFileSync(String(body["mem_file_path"]), "memory", { flag: "wx" });
  }

  #load(body: Body): undefined {
    const configured = Object.keys(this.#config).filter((path) => path !== "/metrics" && path !== "/logger");
    if (configured.length > 0)
      refuse("Loading a microVM snapshot not allowed after configuring boot-specific resources.");
    const memory = (body["mem_backend"] as { backend_path: string } | undefined)?.backend_path ?? "";
    if (readFileSync(memory, "utf8") !== "memory") refuse("The memory file does not belong to the snapshot.");
    this.#config = JSON.parse(readFileSync(String(body["snapshot_path"]), "utf8")) as Record<string, Body>;
    this.#run();
    this.#state = body["resume_vm"] === true ? "Running" : "Paused";
    if (this.#state === "Paused") this.#guest?.kill("SIGSTOP");
  }

  /** The guest's bridge listens a little later, as a real guest does. */
  #run(): void {
    const at = (name: string) => join(folder, `${this.id}.${process.pid}.${name}`);
    const files = [at("port.sock"), join(folder, "guest.sock"), at("outbound.sock")];
    this.#guest = spawn(join(folder, "bridge"), files, { stdio: "ignore" });
    const vsock = this.#config["/vsock"];
    if (!vsock) return;
    createServer({ allowHalfOpen: true }, (socket) => void this.#serveVsock(socket, at("port.sock"))).listen(
      String(vsock["uds_path"]),
    );
  }

  async #serveVsock(socket: Socket, port: string): Promise<void> {
    socket.on("error", () => socket.destroy());
    const first = await new Promise<string>((done) =>
      socket.once("data", (chunk: Buffer) => done(String(chunk))),
    );
    if (first !== "CONNECT 1024\n") {
      socket.destroy();
      return;
    }
    const guest = connect({ path: port, allowHalfOpen: true });
    guest.on("error", () => socket.destroy());
    guest.once("connect", () => {
      socket.write("OK 1073741824\n");
      socket.pipe(guest);
      guest.pipe(socket);
      socket.once("close", () => guest.destroy());
    });
  }
}

async function serve(model: Model, request: IncomingMessage, response: ServerResponse): Promise<void> {
  let text = "";
  for await (const chunk of request) text += String(chunk);
  const [method, path] = [request.method ?? "", request.url ?? ""];
  const body = text === "" ? undefined : (JSON.parse(text) as Body);
  appendFileSync(join(folder, "requests"), `${method} ${path}\n`);
  const fault = existsSync(join(folder, "fault")) ? readFileSync(join(folder, "fault"), "utf8") : "";
  if (fault === `die at ${method} ${path}`) process.kill(process.pid, "SIGKILL");
  if (fault === `silence at ${method} ${path}`) return;
  let status = 204;
  let answer: Body | undefined;
  try {
    const why =
      description.whyNotRequest(method, path, body) ??
      (fault === `refusal at ${method} ${path}` ? "as told" : null);
    if (why !== null) refuse(why);
    answer = model.handle(method, path, body ?? {});
    if (answer) status = 200;
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    status = 400;
    answer = { fault_message: error.message };
  }
  const why = description.whyNotAnswer(method, path, status, answer);
  if (why !== null) throw new Error(`the model answers what Firecracker does not: ${why}`);
  response.writeHead(status, answer ? { "content-type": "application/json" } : {});
  response.end(answer ? JSON.stringify(answer) : undefined);
}

const { id, socket } = enterChroot();
const model = new Model(id);
createHttpServer((request, response) => void serve(model, request, response)).listen(socket);
