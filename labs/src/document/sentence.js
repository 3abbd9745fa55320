"use strict";

/** The parts of a sentence: what is between two backquotes is code. */
function sentence(text) {
  return text.split("`").map((part, i, parts) => {
    if (i % 2 === 0) return part;
    if (i + 1 === parts.length) return `\`${part}`; // A backquote without another.
    const code = document.createElement("code");
    code.textContent = part;
    return code;
  });
}
function setSentence(element, text) {
  if (element.dataset.text === text) return;
  element.dataset.text = text;
  element.replaceChildren(...sentence(text));
}
