// Counts the characters of the new password, shows it on request, and sends the form once. Without it the page works too.
"use strict";
const form = document.querySelector("form");
const password = document.getElementById("password");
const repeat = document.getElementById("repeat");
const count = document.querySelector(".count");
const show = document.querySelector("[data-show]");
let spoken;

function tell() {
  const length = [...password.value.normalize("NFC")].length;
  const isEnough = length >= Number(count.dataset.min);
  const words = isEnough ? count.dataset.enough : count.dataset.short;
  const [seen, heard] = count.children;
  seen.textContent = words.replace("{n}", length).replace("{min}", count.dataset.min);
  count.classList.toggle("enough", isEnough);
  count.hidden = length === 0;
  // A screen reader hears it after a pause in typing.
  clearTimeout(spoken);
  spoken = setTimeout(() => (heard.textContent = seen.textContent), 1000);
}
password.addEventListener("input", tell);

show.hidden = false;
show.addEventListener("click", () => {
  const isShown = show.getAttribute("aria-pressed") !== "true";
  show.setAttribute("aria-pressed", isShown);
  password.type = repeat.type = isShown ? "text" : "password";
});

form.addEventListener("submit", (event) => {
  if (form.dataset.sent) event.preventDefault();
  form.dataset.sent = "yes";
  // A browser may keep passwords that are shown as text.
  password.type = repeat.type = "password";
});
window.addEventListener("pageshow", () => {
  delete form.dataset.sent;
  tell();
});
