// Presses the buttons of the review by single keys, where they are not switched off and nobody types.
// A control says which key is its own in `data-key`; without this script it is pressed by hand.
"use strict";

const SWITCH = "factory-single-keys";
const keys = document.getElementById("keys");

function areOn() {
  return !keys || keys.checked;
}

function isTyping(target) {
  return target.closest("textarea, select, input:not([type=radio]):not([type=checkbox]), [contenteditable]") !== null;
}

function press(control) {
  if (control.matches("textarea, input:not([type=radio])")) control.focus();
  else control.click();
}

if (keys) {
  keys.checked = localStorage.getItem(SWITCH) !== "off";
  keys.addEventListener("change", () => localStorage.setItem(SWITCH, keys.checked ? "on" : "off"));
}

document.addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.isComposing || event.repeat) return;
  if (event.target.id === "corrected" && event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    document.getElementById("save-edit").click();
    return;
  }
  if (event.key === "Escape" && isTyping(event.target)) event.target.blur();
  if (!areOn() || event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target)) return;
  for (const control of document.querySelectorAll("[data-key]")) {
    if (control.dataset.key === event.key.toLowerCase()) {
      event.preventDefault();
      press(control);
      return;
    }
  }
});
