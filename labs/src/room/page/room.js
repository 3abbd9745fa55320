// Asks for everybody's progress once a second, with the token behind the # of this page's address.

const MARKS = { holds: "✓", fails: "✗", skipped: "–", open: "○" };
const $ = (id) => document.getElementById(id);

function row({ progress, silent }) {
  const { name, lab, step, claims } = progress, row = document.createElement("tr");
  const held = claims.filter(([, word]) => word === "holds").length;
  const state = silent > 30 ? `silent for ${silent > 119 ? `${Math.floor(silent / 60)} min` : `${silent} s`}` : step;
  const cells = [["th", name], ["td", lab], ["td", ""], ["td", state]].map(([tag, text]) => {
    const cell = document.createElement(tag);
    cell.append(...sentence(text));
    row.append(cell);
    return cell;
  });
  cells[0].scope = "row";
  const marks = document.createElement("span");
  marks.className = "claims";
  marks.setAttribute("role", "img");
  marks.setAttribute("aria-label", claims.map(([id, word]) => `${id} ${word}`).join(", "));
  marks.title = claims.filter(([, word]) => word !== "holds").map(([id, word]) => `${id}: ${word}`).join("\n");
  marks.textContent = claims.map(([, word]) => MARKS[word]).join("");
  cells[2].append(marks, ` ${held} of ${claims.length}`);
  if (silent > 30) row.className = "silent";
  return row;
}

async function show() {
  try {
    const response = await fetch("/progress", { headers: { Authorization: `Bearer ${location.hash.slice(1)}` } });
    if (!response.ok) throw new Error(await response.text());
    const { participants } = await response.json();
    $("participants").replaceChildren(...participants.map(row));
    $("status").textContent = participants.length === 1 ? "1 participant" : `${participants.length} participants`;
  } catch (error) { $("status").textContent = `not connected: ${error.message}`; }
  setTimeout(show, 1000);
}
show();
