"use strict";
/** Gives a function that shows the decision factors, and what misled the network, at a position of the time line. */
const decisionFactors = async (data, photos, grids, { width, height, make, inflate, upsample, paint, greyOf, cropsOf }) => {
  const stores = await Promise.all(data.runs.map(async ({ factors }) => (
    factors && factors.maps ? new Int8Array((await inflate(factors.maps)).buffer) : null)));
  const greys = new Map();
  const greyIn = (row) => {
    if (!greys.has(row)) greys.set(row, greyOf(photos.get(String(row))));
    return greys.get(row);
  };

  /** A map with what speaks for the right class in warm colours, and what speaks against it in blue. */
  const mapOf = (run, index, row, text) => {
    const { factors, grid: [h, w] } = data.runs[run];
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", text);
    const limit = factors.limits[index];
    if (limit === null) {
      paint(canvas, greyIn(row), null, 0);
      return canvas;
    }
    const scale = document.querySelector("input[name=scale]:checked").value;
    const most = scale === "common" ? factors.common : factors.most[row];
    const values = upsample(stores[run].subarray(index * h * w, (index + 1) * h * w), [h, w], ...grids[run]);
    paint(canvas, greyIn(row), values, scale !== "own" && most > 0 ? limit / most : 1, true);
    return canvas;
  };

  const fillCard = (card, run, found) => {
    card.hidden = !found;
    if (!found) return;
    card.dataset.c = found.key;
    const put = (name, ...children) => card.querySelector(`.${name}`).replaceChildren(...children);
    put("name", found.name);
    put("event", ...(found.event ? [make("span", found.event, "badge")] : []));
    put("share", found.share);
    put("for", found.for || "no class");
    put("against", found.against || "no class");
    put("shows-high", found.words[0]);
    put("shows-low", found.words[1]);
    put("codes", ...found.codes.map(([name, code, relative]) => {
      const bar = make("span", "", "bar");
      bar.style.setProperty("--from", Math.min(relative, 0));
      bar.style.setProperty("--size", Math.abs(relative));
      const item = make("li", "");
      item.append(make("span", name, "class"), bar);
      item.title = `${name}: ${code}`;
      item.classList.toggle("minus", relative < 0);
      return item;
    }));
    put("high", ...cropsOf(found.high, photos, `${found.name}, score above 0,`));
    put("low", ...cropsOf(found.low, photos, `${found.name}, score below 0,`));
    put("places", ...found.tiles.map(([row, support, index]) => {
      const item = make("li", "");
      const caption = make("span", data.names[row], "cap");
      caption.append(make("br", ""), make("strong", support));
      item.append(mapOf(run, index, row, `${found.name} for ${data.names[row]}: ${support}`), caption);
      return item;
    }));
  };

  const rowOf = (run, found) => {
    const cell = (...children) => {
      const made = make("td", "");
      made.append(...children);
      return made;
    };
    const row = make("tr", "");
    const photo = photos.get(String(found.row));
    const thumbnail = photo ? Object.assign(new Image(), { src: photo.src, alt: `image of ${found.true}` }) : "–";
    row.append(cell(thumbnail), cell(found.true), cell(found.answer));
    if (!found.factor) {
      row.append(cell("–"), cell("–"), cell("–"));
      return row;
    }
    const name = make("b", found.factor);
    name.style.color = `var(--c${found.column % 10})`;
    row.dataset.c = found.key;
    row.append(cell(name, make("br", ""), make("small", found.about)), cell(make("strong", found.support)));
    row.append(cell(mapOf(run, found.map, found.row, `${found.factor} for ${found.true}: ${found.support}`)));
    return row;
  };

  const sentences = (list, texts) => list.replaceChildren(...texts.map((text) => make("p", text)));

  return (position) => {
    for (const list of document.querySelectorAll(".factors")) {
      const run = Number(list.dataset.run);
      const frame = data.runs[run].frames[position];
      const found = frame === null ? null : data.runs[run].factors.frames[frame];
      sentences(list.querySelector(".facts"), found ? found.facts : ["No snapshot yet."]);
      sentences(list.querySelector(".cautions"), found ? found.cautions : []);
      list.querySelector(".cautions").hidden = !found?.cautions.length;
      list.querySelectorAll(".factor").forEach((card, column) => fillCard(card, run, found && found.factors[column]));
    }
    for (const list of document.querySelectorAll(".wrong")) {
      const run = Number(list.dataset.run);
      const frame = data.runs[run].frames[position];
      const found = frame === null ? { summary: "No snapshot yet.", rows: [] } : data.runs[run].factors.frames[frame].wrong;
      list.querySelector(".summary").textContent = found.summary;
      list.querySelector(".scroll").hidden = !found.rows.length;
      list.querySelector("tbody").replaceChildren(...found.rows.map((row) => rowOf(run, row)));
    }
  };
};
