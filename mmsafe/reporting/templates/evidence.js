// A number opens what stands behind it: the runs that it is of, each with its own value, answers, config and command.
const dialog = document.getElementById("evidence");
for (const button of document.querySelectorAll("button.number")) {
  button.addEventListener("click", () => {
    const { metric, runs } = button.dataset, wanted = runs.trim().split(" ");
    const [, group] = /^eval\/[^/]+\/(.+)$/s.exec(metric) ?? [];
    const cell = button.parentElement, row = cell.parentElement;
    document.getElementById("number").textContent = `${cell.dataset.head}, ${row.cells[0].textContent}: ${button.textContent}`;
    dialog.querySelectorAll("section").forEach((section, index) => {
      section.hidden = !wanted.includes(`${index}`);
      section.querySelector(".value").textContent = JSON.parse(section.dataset.values)[metric] ?? "not measured";
      const link = section.querySelector("a");
      if (link) link.hash = new URLSearchParams({ run: link.dataset.run, ...(group && { group }) });
    });
    dialog.showModal();
  });
}
document.getElementById("close").addEventListener("click", () => dialog.close());
