import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { defineConfig, type Plugin } from "vite";

/** The licence of every package that goes into the bundle, beside it. */
function licences(): Plugin {
  return {
    name: "licences",
    generateBundle(_, bundle) {
      const folders = new Set<string>();
      for (const chunk of Object.values(bundle)) {
        if (chunk.type !== "chunk") continue;
        for (const id of Object.keys(chunk.modules)) {
          const found = /^\0?(.*\/node_modules\/(?:@[^/]+\/)?[^/]+)\//.exec(id);
          if (found) folders.add(found[1]);
        }
      }
      const texts = [...folders].sort().map((folder) => {
        const about = JSON.parse(readFileSync(join(folder, "package.json"), "utf-8")) as { name: string; version: string; license: string };
        return `${about.name} ${about.version} (${about.license})\n\n${readFileSync(join(folder, "LICENSE"), "utf-8").trim()}\n`;
      });
      this.emitFile({ type: "asset", fileName: "LICENSES.txt", source: texts.join(`\n${"-".repeat(80)}\n\n`) });
    },
  };
}

export default defineConfig({
  plugins: [licences()],
  logLevel: "warn",
  build: {
    target: "es2022",
    outDir: process.env["OUT"] ?? join(dirname(import.meta.dirname), "assets"),
    emptyOutDir: true,
    reportCompressedSize: false,
    lib: { entry: "src/main.ts", name: "tlCircuitsPage", formats: ["iife"], fileName: () => "viewer.js", cssFileName: "viewer" },
  },
});
