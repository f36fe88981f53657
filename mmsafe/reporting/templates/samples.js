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
  return [prompt.id, ...prompt.turns.map((turn) => turn.pieces.join("")), ...prompt.answers.map((answer) => answer?.response ?? "")];
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
  const tags = [prompt.benchmark, prompt.criterion, ...Object.entries(prompt.tags).map((tag) => tag.join("="))];
  const answers = prompt.answers.map((answer, index) => answerOf(answer, data.runs[index], open));
  return article(prompt, tags, answers, open);
}

start();
