import assert from "node:assert/strict";
import { CommandExitError, InvalidArgumentError, TimeoutError } from "e2b";
import { failure, until, type Step } from "./step.ts";

export const commandSteps: readonly Step[] = [
  {
    name: "a command runs in the home folder with the environment of the sandbox and its own",
    isLean: true,
    run: async ({ sandbox }) => {
      const ran = await sandbox.commands.run('echo "$GREETING $NAME $PWD $USER"; echo no >&2', {
        envs: { NAME: "ann" },
      });
      assert.equal(ran.stdout, "hello ann /home/user user\n");
      assert.equal(ran.stderr, "no\n");
      assert.equal((await sandbox.commands.run("pwd", { cwd: "/tmp" })).stdout, "/tmp\n");
      assert.equal((await sandbox.commands.run("pwd", { user: "root" })).exitCode, 0);
      const refused = await failure(sandbox.commands.run("pwd", { cwd: "/nowhere" }));
      assert.ok(refused instanceof InvalidArgumentError, String(refused));
    },
  },
  {
    name: "a command's failure is its exit code",
    run: async ({ sandbox }) => {
      const error = await failure(sandbox.commands.run("exit 7"));
      assert.ok(error instanceof CommandExitError);
      assert.equal(error.exitCode, 7);
    },
  },
  {
    name: "output arrives while the command runs",
    run: async ({ sandbox }) => {
      await sandbox.commands.run("mkfifo go");
      const parts: string[] = [];
      const command = await sandbox.commands.run("echo one; cat go; echo three", {
        background: true,
        onStdout: (part) => void parts.push(part),
      });
      await until("the first line", () => parts.length > 0);
      assert.deepEqual(parts, ["one\n"]);
      await sandbox.commands.run("echo two > go");
      assert.equal((await command.wait()).stdout, "one\ntwo\nthree\n");
    },
  },
  {
    name: "a background command is listed, fed, left, joined again and killed",
    run: async ({ sandbox }) => {
      const cat = await sandbox.commands.run("cat", { background: true, stdin: true });
      assert.ok((await sandbox.commands.list()).some(({ pid }) => pid === cat.pid));
      await sandbox.commands.sendStdin(cat.pid, "fed\n");
      await cat.disconnect();
      const joined = await sandbox.commands.connect(cat.pid);
      await sandbox.commands.closeStdin(cat.pid);
      assert.equal((await joined.wait()).exitCode, 0);
      const sleeper = await sandbox.commands.run("sleep 600", { background: true });
      assert.equal(await sandbox.commands.kill(sleeper.pid), true);
      assert.ok((await failure(sleeper.wait())) instanceof CommandExitError);
      assert.equal(await sandbox.commands.kill(sleeper.pid), false);
    },
  },
  {
    name: "a command that takes longer than it may is ended",
    run: async ({ sandbox }) => {
      const error = await failure(sandbox.commands.run("sleep 600", { timeoutMs: 300 }));
      assert.ok(error instanceof TimeoutError, String(error));
    },
  },
  {
    name: "a terminal takes input and a new size",
    run: async ({ sandbox }) => {
      let seen = "";
      const decoder = new TextDecoder();
      const terminal = await sandbox.pty.create({
        cols: 80,
        rows: 24,
        onData: (part) => {
          seen += decoder.decode(part);
        },
      });
      await sandbox.pty.resize(terminal.pid, { cols: 132, rows: 40 });
      await sandbox.pty.sendInput(terminal.pid, new TextEncoder().encode("stty size; exit 0\n"));
      assert.equal((await terminal.wait()).exitCode, 0);
      assert.match(seen, /40 132/);
    },
  },
  {
    name: "git commits, branches and tells its state",
    run: async ({ sandbox }) => {
      const repository = "/home/user/repository";
      await sandbox.git.init(repository, { initialBranch: "main" });
      await sandbox.git.configureUser("Ann", "ann@example.test", { scope: "local", path: repository });
      await sandbox.files.write("repository/file.txt", "1");
      assert.equal((await sandbox.git.status(repository)).hasUntracked, true);
      await sandbox.git.add(repository);
      await sandbox.git.commit(repository, "First");
      await sandbox.git.createBranch(repository, "feature");
      assert.deepEqual((await sandbox.git.branches(repository)).branches.sort(), ["feature", "main"]);
      assert.equal((await sandbox.git.status(repository)).isClean, true);
    },
  },
];
