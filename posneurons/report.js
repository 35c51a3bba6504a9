"use strict";
(() => {
  const root = document.documentElement;
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  };
  const json = (id) => JSON.parse(document.getElementById(id).textContent);

  // The look: that of the system, or what the button says. Figures that are far away follow when they come near.
  const looks = json("looks");
  const system = matchMedia("(prefers-color-scheme: dark)");
  let printing = false;
  const look = () => (printing ? "light" : root.dataset.look || (system.matches ? "dark" : "light"));

  // What is packed in the page: plotly.js and the figures at once, the neuron pages when they are wanted.
  const unpack = async (id) => {
    const letters = atob(document.getElementById(`packed-${id}`).textContent);
    const bytes = new Uint8Array(letters.length);
    for (let i = 0; i < letters.length; i += 1) bytes[i] = letters.charCodeAt(i);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Response(stream).text();
  };
  let drawings = null;
  const unpacked = (async () => {
    const [code, figures] = await Promise.all([unpack("plotly"), unpack("figures")]);
    document.head.append(make("script", {}, code));
    drawings = JSON.parse(figures);
  })();
  unpacked.catch(() => document.querySelector("main").prepend(make("p", { class: "caution" },
    "This browser cannot unpack the figures; one of 2023 or later can. The tables hold their numbers.")));

  // Figures: drawn when they come near, so that the page opens at once.
  const config = {
    responsive: true, displaylogo: false, showSendToCloud: false, plotlyServerURL: "",
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
  };
  const states = new Map();
  const near = new Set();
  const visible = (plot) => plot.isConnected && plot.offsetParent !== null;
  const state = (plot) => {
    if (!states.has(plot)) {
      states.set(plot, { ...(plot.content || drawings[plot.dataset.figure]), look: null, width: null });
    }
    return states.get(plot);
  };
  const draw = (plot) => {
    if (!drawings || !visible(plot) || !(plot.content || plot.dataset.figure)) return;
    const of = state(plot);
    const now = look();
    const width = printing ? 680 : null;
    if (of.look === null) {
      Plotly.newPlot(plot, of.figure.data, { ...of.figure.layout, template: looks[now] }, config);
      plot.classList.add("drawn");
      if (width) Plotly.relayout(plot, { width });  // drawn at its own width first, to which it returns
    } else if (of.look !== now || of.width !== width) {
      Plotly.relayout(plot, { template: looks[now], width, autosize: width === null });
    } else if (plot.clientWidth && Math.abs(plot.clientWidth - plot._fullLayout.width) > 1) {
      Plotly.Plots.resize(plot);
    }
    Object.assign(of, { look: now, width });
  };
  const waiting = [];
  const drawNext = () => {
    const plot = waiting.shift();
    if (plot && near.has(plot)) draw(plot);
    if (waiting.length) requestAnimationFrame(() => setTimeout(drawNext));
  };
  const nearby = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      near[isIntersecting ? "add" : "delete"](target);
      if (isIntersecting && waiting.push(target) === 1) requestAnimationFrame(() => setTimeout(drawNext));
    }
  }, { rootMargin: "500px 0px" });
  const drawNear = () => near.forEach(draw);

  const button = document.getElementById("look");
  const show = () => { button.textContent = `Look: ${root.dataset.look || "auto"}`; drawNear(); };
  button.addEventListener("click", () => {
    const next = { undefined: "light", light: "dark" }[root.dataset.look];
    if (next) root.dataset.look = next; else delete root.dataset.look;
    show();
  });
  system.addEventListener("change", show);
  addEventListener("beforeprint", () => { printing = true; all(".plot").forEach(draw); });
  addEventListener("afterprint", () => { printing = false; all(".plot").forEach(draw); });

  // The controls of a figure: what plotly would draw as menus, which no keyboard reaches.
  const apply = async (plot, menu, choice) => {
    await unpacked;
    draw(plot);
    const [call, parameters] = state(plot).menus[menu].calls[choice];
    Plotly[call](plot, ...parameters);
  };
  const connect = (figure) => {
    const plot = figure.querySelector(".plot");
    all(".controls", figure).forEach((controls, menu) => controls.addEventListener("change", ({ target }) => {
      if (target.tagName !== "SELECT") { apply(plot, menu, Number(target.value)); return; }
      const word = target.value;
      all("figure select", figure.parentElement).forEach((select) => {  // the menus of a block go together
        const choice = [...select.options].findIndex((option) => option.value === word);
        if (choice < 0) return;
        select.selectedIndex = choice;
        const other = select.closest("figure");
        apply(other.querySelector(".plot"), all(".controls", other).indexOf(select.closest(".controls")), choice);
      });
    }));
  };

  // Blocks of a section: one is shown, the one that has all chosen words, or else the first that has the last of them.
  const choose = (group, changed) => {
    const blocks = all(":scope > .block", group);
    const places = all(":scope > .choices", group);
    const words = places.map((place) => place.querySelector(":checked").value);
    const of = (block) => JSON.parse(block.dataset.choice);
    const same = (block) => of(block).every((word, i) => word === words[i]);
    const found = blocks.find(same) || blocks.find((block) => of(block)[changed] === words[changed]);
    blocks.forEach((block) => block.classList.toggle("chosen", block === found));
    of(found).forEach((word, i) => all("input", places[i]).forEach((input) => { input.checked = input.value === word; }));
    all(".plot", found).forEach((plot) => states.has(plot) && draw(plot));
  };
  all(".group").forEach((group) => all(":scope > .choices", group).forEach((place, i) => {
    place.addEventListener("change", () => choose(group, i));
  }));

  // Tables: sorted by the buttons in their heads, filtered by words that a row must have.
  const valueOf = (cell) => ("value" in cell.dataset ? Number(cell.dataset.value) : cell.textContent.trim());
  const compare = (a, b, sign) => {
    if (typeof a === "string" || typeof b === "string") return sign * String(a).localeCompare(String(b));
    if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
    return sign * (a - b);
  };
  const sort = (table, head) => {
    const column = head.cellIndex;
    const rows = [...table.tBodies[0].rows];
    const keys = new Map(rows.map((row) => [row, valueOf(row.cells[column])]));
    const before = head.getAttribute("aria-sort");
    const words = [...keys.values()].some((key) => typeof key === "string");
    const down = before ? before === "ascending" : !words;
    all("thead th", table).forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    rows.sort((a, b) => compare(keys.get(a), keys.get(b), down ? -1 : 1));
    table.tBodies[0].append(...rows);
  };
  const filtered = (table) => {
    const rows = [...table.tBodies[0].rows];
    const input = make("input", { type: "search", autocomplete: "off" });
    const count = make("output", {}, `${rows.length} rows`);
    const region = table.parentElement;
    region.before(make("div", { class: "filter" }, make("label", {}, "Filter rows ", input), count));
    input.addEventListener("input", () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      const left = rows.filter((row) => {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
        return !row.hidden;
      });
      count.textContent = words.length ? `${left.length} of ${rows.length} rows` : `${rows.length} rows`;
    });
  };
  const ready = (table) => {
    all("thead th", table).forEach((head) => {
      if (!head.textContent.trim()) return;
      const press = make("button", { type: "button" }, ...head.childNodes);
      press.addEventListener("click", () => sort(table, head));
      head.replaceChildren(press);
    });
    if (table.tBodies[0].rows.length > 15) filtered(table);
  };
  all("main table.sorts").forEach((table) => {
    const fold = table.closest("details");
    if (fold) fold.addEventListener("toggle", () => ready(table), { once: true }); else ready(table);
  });

  // Neuron pages: one at a time, made from its template when it is chosen or its name stands after the # of the address.
  const place = document.getElementById("page");
  const listed = place ? json("page-index") : [];
  const select = document.getElementById("page-tag");
  const names = document.getElementById("page-names");
  const list = (tag) => {
    const of = listed.find((each) => each.tag === tag) || { methods: [] };
    names.replaceChildren(...of.methods.map(({ method, neurons }) => make("li", {}, method && `${method}: `, make("ul", {},
      ...neurons.map(([name, rank]) => make("li", {}, make("a", { href: `#${name}` }, name), rank === null ? "" : ` (${rank})`))))));
    mark();
  };
  const mark = () => all("a", names).forEach((link) => {
    if (link.textContent === place.dataset.name) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  });
  let pages = null;
  let wanted = null;
  const open = async (name, { go = false } = {}) => {
    wanted = name;
    pages ??= unpack("pages").then(JSON.parse);
    const known = await pages;
    const content = known[name];
    if (wanted !== name) return;
    if (!content) {
      const how = `${name} has no page in this run; ${Object.keys(known).length} neurons have. pn.show("${name}", model, corpus) makes one.`;
      document.getElementById("page-text").replaceChildren(make("p", { class: "absent" }, how));
      document.getElementById("page-plot").closest("figure").hidden = true;
      delete place.dataset.name;
      mark();
      if (go) place.scrollIntoView({ behavior: "instant" });
      return;
    }
    document.getElementById("page-text").innerHTML = content.html;  // escaped when it was made
    all(".neuron-page", place).forEach((article) => { article.id = `neuron-${name}`; });
    place.dataset.name = name;
    const tags = listed.filter(({ methods }) => methods.some(({ neurons }) => neurons.some(([other]) => other === name)));
    if (tags.length && !tags.some(({ tag }) => tag === select.value)) select.value = tags[0].tag;
    list(select.value);
    const plot = document.getElementById("page-plot");
    if (states.delete(plot)) Plotly.purge(plot);
    plot.classList.remove("drawn");
    plot.content = content;
    plot.setAttribute("aria-label", content.alt);
    plot.style.height = `${content.height}px`;
    plot.closest("figure").hidden = false;
    if (go) { place.scrollIntoView({ behavior: "instant" }); place.focus({ preventScroll: true }); }
    await unpacked;
    if (near.has(plot)) draw(plot);
  };
  const fromAddress = () => {
    if (place && /^#L\d+N\d+$/i.test(location.hash)) open(location.hash.slice(1).toUpperCase(), { go: true });
  };
  if (place && listed.length) {
    select.addEventListener("change", () => {
      list(select.value);
      const [first] = listed.find(({ tag }) => tag === select.value).methods[0].neurons[0];
      history.replaceState(null, "", `#${first}`);
      open(first);
    });
    list(select.value);
    addEventListener("hashchange", fromAddress);
    fromAddress();
    // The first page moves what follows it: a reader who came for that is taken there again.
    let moved = false;
    ["wheel", "pointerdown", "keydown", "touchmove"].forEach((kind) => addEventListener(kind, () => { moved = true; }, { once: true }));
    const stay = () => !moved && document.querySelector("section:target")?.scrollIntoView({ behavior: "instant" });
    unpacked.then(() => setTimeout(() => wanted ?? open(place.dataset.first).then(stay), 200));
  }

  // The contents mark where the reader is.
  const links = new Map(all(".rail a").map((link) => [link.hash.slice(1), link]));
  const reading = new IntersectionObserver((entries) => entries.forEach(({ target, isIntersecting }) => {
    const link = links.get(target.id);
    if (isIntersecting) link?.setAttribute("aria-current", "true"); else link?.removeAttribute("aria-current");
  }), { rootMargin: "-30% 0px -69% 0px" });
  all("main section").forEach((section) => reading.observe(section));
  all("main figure").forEach(connect);
  show();
  unpacked.then(() => all(".plot").forEach((plot) => nearby.observe(plot)));
})();
