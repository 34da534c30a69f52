"use strict";
(async () => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const [slider, now, play] = ["slider", "now", "play"].map((id) => document.getElementById(id));
  const last = data.labels.length - 1;

  // On a narrow screen what comes first is open, and the rest is a table of contents.
  if (matchMedia("(max-width: 760px)").matches) {
    for (const kind of [".section", ".card details"]) {
      [...document.querySelectorAll(kind)].slice(1).forEach((each) => { each.open = false; });
    }
  }

  const draw = drawing(data);
  const { width, height, make, inflate, taps, upsample, paint, greyOf, cropsOf } = draw;

  // ----- what is on the page

  const photos = new Map();
  for (const image of document.querySelectorAll("img[data-row]")) photos.set(image.dataset.row, image);
  for (const [row, uri] of Object.entries(data.photos)) photos.set(row, Object.assign(new Image(), { src: uri }));
  await Promise.all([...photos.values()].map((photo) => photo.decode()));

  const grids = data.runs.map(({ grid }) => [taps(grid[0], height), taps(grid[1], width)]);
  const blocks = await Promise.all([...document.querySelectorAll(".block")].map(async (element) => {
    const run = Number(element.dataset.run);
    const image = data.runs[run].images[element.dataset.image];
    const photo = element.querySelector("img[data-row]");
    const tiles = [...element.querySelectorAll(".tile")];
    for (const tile of tiles) Object.assign(tile.querySelector("canvas"), { width, height });
    return { element, run, image, tiles, grey: greyOf(photo), maps: await inflate(image.maps) };
  }));
  for (const image of new Set(blocks.map(({ element }) => element.dataset.image))) {
    // One scale for all runs of an image.
    const limits = data.runs.map((run) => run.images[image].shared);
    const shared = [0, 1].map((kind) => Math.max(...limits.map((limit) => limit[kind])));
    for (const run of data.runs) run.images[image].shared = shared;
  }
  root.style.setProperty("--shape", width / height);
  const showFactors = await decisionFactors(data, photos, grids, draw);

  const drawMap = (block, canvas, frame, index) => {
    const [h, w] = data.runs[block.run].grid;
    const limits = block.image.limits[frame];
    const limit = limits[index];
    if (limit === null) return paint(canvas, block.grey, null, 0);
    const scale = document.querySelector("input[name=scale]:checked").value;
    const most = (scale === "common" ? data.common : block.image.shared)[index === 0 ? 0 : 1];
    const start = (frame * limits.length + index) * h * w;
    const values = upsample(block.maps.subarray(start, start + h * w), [h, w], ...grids[block.run]);
    return paint(canvas, block.grey, values, scale !== "own" && most > 0 ? limit / most : 1);
  };

  const clear = (tile, canvas, text) => {
    tile.classList.add("empty");
    delete tile.dataset.c;
    canvas.getContext("2d").clearRect(0, 0, width, height);
    canvas.setAttribute("aria-label", text);
    tile.querySelector(".cap").replaceChildren(make("span", tile.matches("[data-cam]") ? "integrated" : "–"));
  };

  const fill = (block, tile, frame, found) => {
    const canvas = tile.querySelector("canvas");
    tile.classList.toggle("empty", !found);
    if (!found) return clear(tile, canvas, "No component in this column");
    const [rank, key, name, gain, share, confidence, event, partner] = found;
    drawMap(block, canvas, frame, rank + 1);
    tile.dataset.c = key;
    const title = make("span", "");
    tile.classList.toggle("alone", data.matched && !partner);
    title.append(make("b", name), ...(event ? [make("span", event, "badge")] : []));
    const lines = [title, make("strong", gain), make("span", ` · ${share}`)];
    if (confidence) lines.push(make("br", ""), make("span", `confidence ${confidence}`));
    title.append(make("br", ""));
    if (partner) lines.push(make("br", ""), make("span", `≈ ${partner}`));
    tile.querySelector(".cap").replaceChildren(...lines);
    canvas.setAttribute("aria-label", `${name}${event ? `, ${event}` : ""}: score gain ${gain}, `
      + `${share} of the energy` + (confidence ? `, confidence ${confidence}` : "") + (partner ? `, like ${partner}` : ""));
  };

  const fillBlock = (block, position) => {
    const run = data.runs[block.run];
    const frame = run.frames[position];
    const [cam, ...columns] = block.tiles;
    const letter = data.runs.length > 1 ? `${"AB"[block.run]} ` : "";
    const verdict = block.element.closest(".card").querySelectorAll(".verdict")[block.run];
    verdict.textContent = frame === null ? "" : letter + block.image.verdicts[frame];
    block.element.querySelector(".stale").textContent = frame === null
      ? "No snapshot yet." : run.labels[frame] === data.labels[position] ? "" : `No record here: ${run.labels[frame]} is shown.`;
    if (frame === null) {
      for (const tile of block.tiles) clear(tile, tile.querySelector("canvas"), "Nothing yet");
      return;
    }
    cam.classList.remove("empty");
    const canvas = cam.querySelector("canvas");
    drawMap(block, canvas, frame, 0);
    canvas.setAttribute("aria-label", `Integrated map at ${run.labels[frame]}`
      + (block.image.limits[frame][0] === null ? ": the evidence was not finite" : ""));
    columns.forEach((tile, index) => fill(block, tile, frame, block.image.tiles[frame][index]));
  };

  const fillExemplars = (list, position) => {
    const run = data.runs[list.dataset.run];
    const frame = run.frames[position];
    [...list.children].forEach((item, index) => {
      const found = frame === null ? null : run.shared[frame][index];
      const [key, name, share, crops] = found ?? ["", "", "", []];
      item.hidden = !found;
      item.dataset.c = key;
      item.querySelector(".cap").replaceChildren(make("b", name), make("span", share ? ` · ${share} of the energy` : ""));
      item.querySelector(".crops").replaceChildren(...cropsOf(crops, photos, name));
    });
  };

  // ----- time

  const show = () => {
    const position = Number(slider.value);
    root.style.setProperty("--at", last ? position / last : 0.5);
    now.textContent = data.labels[position];
    slider.setAttribute("aria-valuetext", data.labels[position]);
    for (const block of blocks) fillBlock(block, position);
    for (const list of document.querySelectorAll(".exemplars")) fillExemplars(list, position);
    showFactors(position);
  };
  let waiting = false;
  const showSoon = () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; show(); });
  };
  const goTo = (position) => { slider.value = position; showSoon(); };

  let timer = null;
  const pause = () => {
    clearInterval(timer);
    timer = null;
    play.setAttribute("aria-pressed", "false");
    play.firstElementChild.textContent = "▶";
    play.lastElementChild.textContent = "Play";
  };
  play.addEventListener("click", () => {
    if (timer !== null) return pause();
    if (Number(slider.value) === last) goTo(0);
    timer = setInterval(() => (Number(slider.value) < last ? goTo(Number(slider.value) + 1) : pause()), 800);
    play.setAttribute("aria-pressed", "true");
    play.firstElementChild.textContent = "❚❚";
    play.lastElementChild.textContent = "Pause";
  });
  slider.addEventListener("input", () => { pause(); showSoon(); });
  for (const choice of document.querySelectorAll("input[name=scale]")) choice.addEventListener("change", showSoon);

  // A click into a chart goes to the snapshot there.
  document.addEventListener("click", (event) => {
    const chart = event.target.closest(".chart");
    if (!chart || !last) return;
    const box = chart.getBoundingClientRect();
    const [, , units] = chart.getAttribute("viewBox").split(" ").map(Number);
    const axis = chart.querySelector(".axis line");
    const [left, right] = ["x1", "x2"].map((end) => Number(axis.getAttribute(end)));
    const at = ((event.clientX - box.left) / box.width * units - left) / (right - left);
    goTo(Math.round(Math.min(Math.max(at, 0), 1) * last));
  });

  // ----- the component under the pointer or the focus

  const highlight = (target) => {
    for (const element of document.querySelectorAll(".on, .dim")) element.classList.remove("on", "dim");
    const chosen = target instanceof Element ? target.closest("[data-c]") : null;
    if (!chosen) return;
    for (const element of chosen.closest("[data-scope]").querySelectorAll("[data-c]")) {
      const same = element.dataset.c === chosen.dataset.c;
      element.classList.toggle("on", same);
      element.classList.toggle("dim", !same && element.matches(".line"));
    }
  };
  document.addEventListener("pointerover", (event) => highlight(event.target));
  document.addEventListener("focusin", (event) => highlight(event.target));
  document.addEventListener("focusout", () => highlight(null));

  // Maps and legends are one stop of the tabulator each; arrow keys go on within them.
  document.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const list = event.target.closest(".tiles, .legend");
    if (!step || !list) return;
    const stops = [...list.querySelectorAll("[tabindex]")];
    const next = stops[stops.indexOf(event.target) + step];
    if (!next) return;
    event.target.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
    event.preventDefault();
  });

  show();
  root.dataset.ready = "";
})();
