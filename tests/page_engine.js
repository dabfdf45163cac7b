// The built viewer outside of a browser: reads one JSON request a line, answers with one JSON line.
"use strict";
const fs = require("node:fs");
const vm = require("node:vm");

vm.runInThisContext(fs.readFileSync(process.argv[2], "utf8"));
const page = globalThis.tlCircuitsPage;
const list = (values) => Array.from(values, (value) => (Number.isFinite(value) ? value : null));

const answers = {
  numbers({ file, thresholds, k, from, to }) {
    const graph = page.readGraph(new Uint8Array(fs.readFileSync(file)));
    const counted = page.countedSources(graph.nodes, thresholds.constants);
    const whole = { nodes: new Uint8Array(graph.nodes.count).fill(1), edges: new Uint8Array(graph.edges.source.length).fill(1) };
    const all = page.withLossesAsErrors(graph, whole, thresholds.constants);
    const plain = page.sharesOf(graph.edges, counted);
    const cut = page.prune(graph, thresholds);
    const merged = page.withLossesAsErrors(graph, cut, thresholds.constants);
    const paths = page.strongest(graph, merged, k, from, to);
    return {
      names: graph.names,
      influence: list(page.nodeInfluence(all.shares, graph, page.targetShares(graph)).slice(0, graph.nodes.count)),
      cumulative: list(page.cumulative(page.nodeInfluence(plain, graph, page.targetShares(graph)))),
      nodes: list(cut.nodes),
      edges: list(cut.edges),
      scores: Object.values(page.score(graph, cut, thresholds.constants)).map(list),
      whole: Object.values(page.score(graph, whole, thresholds.constants)).map(list),
      paths: paths.map((path) => ({ ...path, names: path.rows.map((row) => graph.names[row]) })),
    };
  },
  json({ file, work, version }) {
    const graph = page.readGraph(new Uint8Array(fs.readFileSync(file)));
    const given = page.asWork(work, page.FRESH);
    const labels = new Map([...graph.labels, ...Object.entries(given.labels)]);
    return JSON.parse(page.viewerJson(graph, given, labels, page.prune(graph, given), version));
  },
  problems({ file }) {
    try {
      page.readGraph(new Uint8Array(fs.readFileSync(file)));
      return [];
    } catch (error) {
      return error.problems;
    }
  },
  suggest({ file, features, alike }) {
    const graph = page.readGraph(new Uint8Array(fs.readFileSync(file)));
    const counted = page.countedSources(graph.nodes, false);
    const shares = page.sharesOf(graph.edges, counted);
    const whole = { nodes: new Uint8Array(graph.nodes.count).fill(1), edges: new Uint8Array(graph.edges.source.length).fill(1) };
    const influence = page.nodeInfluence(page.withLossesAsErrors(graph, whole, false).shares, graph, page.targetShares(graph));
    const rows = features ?? [...graph.names.keys()].slice(0, graph.nFeatures);
    return { origins: page.origins(graph, shares).map(list), groups: page.suggest(graph, graph.labels, shares, influence, rows, alike) };
  },
  groups({ file, work, text }) {
    const graph = page.readGraph(new Uint8Array(fs.readFileSync(file)));
    try {
      return page.readGroups(graph, page.asWork(work, page.FRESH), text);
    } catch (error) {
      return { problems: error.problems };
    }
  },
  positions({ file, work }) {
    const graph = page.readGraph(new Uint8Array(fs.readFileSync(file)));
    const influence = page.nodeInfluence(page.sharesOf(graph.edges, page.countedSources(graph.nodes, false)), graph, page.targetShares(graph));
    const found = page.shownPositions(graph, page.asWork(work, page.FRESH), [...graph.names.keys()], influence);
    return found && [...found].sort((a, b) => a - b);
  },
  visible({ texts }) {
    return texts.map(page.visible);
  },
  link_at({ links, places, x, y, reach }) {
    return page.linkAt(links, (row) => places[row], x, y, reach);
  },
  labels({ text }) {
    try {
      return page.readLabels(text);
    } catch (error) {
      return { problems: error.problems };
    }
  },
  written({ labels, transcoder, weights }) {
    return page.labelsJson(new Map(Object.entries(labels)), transcoder, weights);
  },
  python({ work }) {
    return page.python(page.asWork(work, page.FRESH));
  },
  dot({ file }) {
    const graph = page.readGraph(new Uint8Array(fs.readFileSync(file)));
    const shares = page.sharesOf(graph.edges, page.countedSources(graph.nodes, false));
    const rows = [...graph.names.keys()].filter((row) => ![3, 4, 5, 6].includes(graph.nodes.kind[row]));
    const links = [];
    for (let target = 0; target < graph.nodes.count; target++) {
      for (let edge = graph.edges.bounds[target]; edge < graph.edges.bounds[target + 1]; edge++) {
        const [source, weight] = [graph.edges.source[edge], graph.edges.weight[edge]];
        if (rows.includes(source)) links.push({ source, target, weight, share: Math.abs(weight) / shares.denominator[target] });
      }
    }
    return page.dot(graph, graph.labels, rows, links);
  },
  cone({ file, row, end }) {
    const graph = page.readGraph(new Uint8Array(fs.readFileSync(file)));
    const whole = { nodes: new Uint8Array(graph.nodes.count).fill(1), edges: new Uint8Array(graph.edges.source.length).fill(1) };
    return page.cone(graph, whole, row, end);
  },
  labels_csv({ labels }) {
    const text = page.labelsCsv(new Map(Object.entries(labels)));
    return { text, back: page.readLabels(text).labels };
  },
  csv({ lines }) {
    return page.csv(lines);
  },
  async hash({ value }) {
    const hash = await page.toHash(value);
    return { hash, back: await page.fromHash(hash), strange: await Promise.all(["", "#v1=", "#v1=%%", "#v2=abcd", hash + "x"].map((text) => page.fromHash(text))) };
  },
  history({ steps }) {
    let now = page.begin(0);
    const seen = [];
    for (const [what, value, key, at] of steps) {
      now = what === "undo" ? page.undo(now) : what === "redo" ? page.redo(now) : page.step(now, value, key, at);
      seen.push(now.now);
    }
    return seen;
  },
  work({ given }) {
    return page.asWork(given, page.FRESH);
  },
  layout({ file, width, height }) {
    const graph = page.readGraph(new Uint8Array(fs.readFileSync(file)));
    const rows = [...graph.names.keys()];
    const layout = page.layOut(graph, rows, new Float64Array(graph.nodes.count), width, height);
    return { x: list(layout.x), y: list(layout.y), columns: layout.columns, lines: layout.lines, width: layout.width, height: layout.height };
  },
};

require("node:readline").createInterface({ input: process.stdin }).on("line", async (line) => {
  const { what, ...given } = JSON.parse(line);
  let answer;
  try {
    answer = { answer: await answers[what](given) };
  } catch (error) {
    answer = { failed: String(error.stack) };
  }
  process.stdout.write(JSON.stringify(answer) + "\n");
});
