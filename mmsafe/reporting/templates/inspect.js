function texts(row) {
  return [row.id, ...row.turns.map((turn) => turn.pieces.join("")), ...Object.values(row.responses)];
}

function matcher(filters) {
  const wanted = (filters.get("text") ?? "").toLowerCase();
  const group = form.elements.group.selectedOptions[0];
  return (row) => {
    if (filters.get("split") && row.split !== filters.get("split")) return false;
    if (filters.get("flag") && !Object.hasOwn(row.flags, filters.get("flag"))) return false;
    if (group.value && row.tags[group.dataset.tag] !== group.dataset.value) return false;
    return !wanted || texts(row).some((text) => text.toLowerCase().includes(wanted));
  };
}

function count() {
  document.getElementById("count").textContent = `${found.length} of ${data.prompts.length} rows`;
}

function responseOf(name, row, open) {
  const size = `${row.responses[name].length.toLocaleString("en")} characters, ${row.tokens[name]} tokens`;
  return element("section", { className: "answer" }, behind(`${name}: ${size}`, row.responses[name], open));
}

function sample(row, open) {
  const { instruction, prompt } = row.tokens;
  const tags = [row.split, ...Object.entries(row.tags).map((tag) => tag.join("=")), `${instruction} tokens, prompt ${prompt}`];
  const shown = article(row, tags, Object.keys(row.responses).map((name) => responseOf(name, row, open)), open);
  const flags = Object.entries(row.flags).map(([flag, about]) => element("li", { title: data.meaning[flag] }, visible(`${flag}: ${about}`)));
  if (flags.length) shown.querySelector(".words").append(element("ul", { className: "flags" }, ...flags));
  return shown;
}

start();
