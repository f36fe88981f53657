"use strict";
// Words of data and models become text nodes only: nothing here parses HTML.
const data = JSON.parse(document.getElementById("data").textContent);
const form = document.getElementById("filters");
const [PER_PAGE, LONGEST] = [20, 20000];
// Controls, halves of surrogate pairs, and what turns the direction of text: shown by number. Not newline and tab.
const INVISIBLE = /(?![\n\t])[\p{Cc}\p{Cs}\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]/gu;
let found = data.prompts, first = 0;

function element(name, properties, ...children) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
}

function visible(text) {
  return text.replace(INVISIBLE, (letter) => `⟨U+${letter.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`);
}

function words(text) {
  const pre = element("pre", { dir: "auto", tabIndex: 0 }, visible(text.slice(0, LONGEST)));
  if (text.length <= LONGEST) return [pre];
  const more = element("button", { type: "button" }, `all ${text.length.toLocaleString("en")} characters`);
  more.addEventListener("click", () => { pre.textContent = visible(text); more.remove(); });
  return [pre, more];
}

// The text is not in the page before it is opened.
function behind(title, text, open, opened) {
  const details = element("details", {}, element("summary", {}, title));
  const toggled = () => {
    if (details.open && details.children.length === 1) details.append(...words(text));
    if (opened) opened(details.open);
  };
  details.open = open;
  toggled();
  details.addEventListener("toggle", toggled);
  return details;
}

function harmful(answer) { return answer.unsafe || answer.unknown; }

const verdicts = {
  unsafe: (answer) => answer.unsafe && !answer.unknown,
  safe: (answer) => !harmful(answer),
  refused: (answer) => answer.refused && !answer.unknown,
  unknown: (answer) => answer.unknown,
};

function changed(prompt) {
  const told = prompt.answers.filter(Boolean).map((answer) => Object.values(verdicts).map((is) => is(answer)).join());
  return new Set(told).size > 1;
}

function texts(prompt) {
  return [prompt.id, ...prompt.turns.map((turn) => turn.text), ...prompt.answers.map((answer) => answer?.response ?? "")];
}

function matcher(filters) {
  const wanted = (filters.get("text") ?? "").toLowerCase();
  const group = form.elements.group.selectedOptions[0];
  const run = filters.get("run") || null;
  return (prompt) => {
    const answers = prompt.answers.filter((answer, index) => answer && (run === null || index === Number(run)));
    if (answers.length === 0) return false;
    if (filters.get("verdict") && !answers.some(verdicts[filters.get("verdict")])) return false;
    if (filters.has("changed") && !changed(prompt)) return false;
    if (group.value) {
      const { tag, value } = group.dataset;
      const values = tag ? [prompt.tags[tag]] : answers.map((answer) => answer.category);
      if (!values.includes(value)) return false;
    }
    return !wanted || texts(prompt).some((text) => text.toLowerCase().includes(wanted));
  };
}

function count() {
  document.getElementById("count").textContent = `${found.length} of ${data.prompts.length} prompts`;
  document.getElementById("runs").replaceChildren(...data.runs.map((run, index) => {
    const answers = found.map((prompt) => prompt.answers[index]).filter(Boolean);
    const counts = ["unsafe", "refused", "unknown"].map((name) => answers.filter(verdicts[name]).length);
    const cells = [run.benchmark, run.judge, answers.length, ...counts].map((value) => element("td", {}, `${value}`));
    return element("tr", {}, element("th", { scope: "row" }, run.label), ...cells);
  }));
}

function answerOf(answer, run, open) {
  const box = element("section", { className: "answer" }, element("h3", {}, run.label));
  if (!answer) return box.append("was not asked this"), box;
  const told = Object.keys(verdicts).filter((name) => verdicts[name](answer));
  const line = told.map((name) => element("span", { className: `verdict ${name}` }, name));
  const said = [`judge: ${run.judge}`, answer.category, ...answer.details, answer.finished ? "" : "cut at the length limit"];
  box.append(...line, element("div", { className: "tags" }, visible(said.filter(Boolean).join(" · "))));
  const size = `${answer.response.length.toLocaleString("en")} characters`;
  if (harmful(answer)) box.append(behind(`response: ${told.join(", ")}, ${size}`, answer.response, open));
  else box.append(...words(answer.response || "(empty)"));
  if (answer.error) box.append(element("p", { className: "unknown" }, visible(answer.error)));
  if (answer.reply) box.append(behind("what the judge said", answer.reply, false));
  return box;
}

function sample(prompt, open) {
  const asked = prompt.turns.map((turn) => (prompt.turns.length > 1 ? `${turn.role}: ` : "") + turn.text).join("\n\n");
  const tags = [prompt.benchmark, prompt.criterion, ...Object.entries(prompt.tags).map((tag) => tag.join("="))];
  const body = element("div", { className: "words" }, element("h2", {}, visible(prompt.id)));
  body.append(element("p", { className: "tags" }, visible(tags.join(" · "))));
  const top = element("div", { className: "prompt" });
  if (prompt.image) {
    const image = element("img", { src: data.images[prompt.image], alt: `image of prompt ${prompt.id}` });
    top.append(element("div", { className: prompt.harmless ? "image" : "image hidden" }, image));
  }
  const unblur = (shown) => top.querySelector(".image")?.classList.toggle("hidden", !shown);
  if (prompt.harmless) body.append(...words(asked));
  else body.append(behind(`instruction${prompt.image ? " and image" : ""}`, asked, open, unblur));
  top.append(body);
  const answers = prompt.answers.map((answer, index) => answerOf(answer, data.runs[index], open));
  return element("article", { ariaLabel: `prompt ${prompt.id}` }, top, element("div", { className: "answers" }, ...answers));
}

function show() {
  const open = form.elements.reveal.checked;
  const shown = found.slice(first, first + PER_PAGE).map((prompt) => sample(prompt, open));
  document.getElementById("samples").replaceChildren(...shown);
  const last = Math.min(first + PER_PAGE, found.length);
  document.getElementById("page").textContent = found.length ? `${first + 1} to ${last} of ${found.length}` : "none";
  document.getElementById("previous").disabled = first === 0;
  document.getElementById("next").disabled = last === found.length;
}

function filter(from) {
  const filters = new FormData(form);
  found = data.prompts.filter(matcher(filters));
  first = from;
  history.replaceState(null, "", `#${new URLSearchParams([...filters].filter(([, value]) => value))}`);
  count();
  show();
}

function turn(step) {
  first += step;
  show();
  scrollTo(0, document.getElementById("samples").offsetTop);
}

for (const [name, value] of new URLSearchParams(location.hash.slice(1))) {
  const field = form.elements.namedItem(name);
  if (field?.type === "checkbox") field.checked = true;
  else if (field) field.value = value;
}
if (!form.elements.group.selectedOptions.length) form.elements.group.value = "";
form.addEventListener("input", (event) => filter(event.target.name === "reveal" ? first : 0));
form.addEventListener("submit", (event) => event.preventDefault());
document.getElementById("previous").addEventListener("click", () => turn(-PER_PAGE));
document.getElementById("next").addEventListener("click", () => turn(PER_PAGE));
filter(0);
