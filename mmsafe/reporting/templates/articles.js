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

// What was said; of several images, each where it stands.
function transcript(prompt) {
  let number = 0;
  const mark = () => (prompt.images.length > 1 ? `[image ${(number += 1)}] ` : "");
  const said = (turn) => turn.pieces.map((piece) => piece ?? mark()).join("");
  return prompt.turns.map((turn) => (prompt.turns.length > 1 ? `${turn.role}: ` : "") + said(turn)).join("\n\n");
}

// Images and words of a prompt, hidden unless it is a harmless one, above the answers to it.
function article(prompt, tags, answers, open) {
  const asked = transcript(prompt);
  const body = element("div", { className: "words" }, element("h2", {}, visible(prompt.id)));
  body.append(element("p", { className: "tags" }, visible(tags.join(" · "))));
  const top = element("div", { className: "prompt" });
  const images = prompt.images.filter((key) => key).map((key) => {
    const image = element("img", { src: data.images[key], alt: `image of prompt ${prompt.id}` });
    return element("div", { className: prompt.harmless ? "image" : "image hidden" }, image);
  });
  if (images.length) top.append(element("div", { className: "images" }, ...images));
  const unblur = (shown) => images.forEach((image) => image.classList.toggle("hidden", !shown));
  if (prompt.harmless) body.append(...words(asked));
  else body.append(behind(`instruction${images.length ? " and image" : ""}${images.length > 1 ? "s" : ""}`, asked, open, unblur));
  top.append(body);
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

// Called by the page's own script, which brings `matcher`, `sample` and `count`.
function start() {
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
}
