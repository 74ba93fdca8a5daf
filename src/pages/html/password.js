// Counts the characters of the new password, says how strong it is, shows it on request, and sends the form once. Without it the
// page works too.
"use strict";
const form = document.querySelector("form");
const password = document.getElementById("password");
const repeat = document.getElementById("repeat");
const count = document.querySelector(".count");
const strength = document.querySelector(".strength");
const advice = document.querySelector(".advice");
const show = document.querySelector("[data-show]");
// The server is asked once the user pauses.
const PAUSE = 300;
let spoken;
let asked;
let asking;

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

function hideStrength() {
  strength.hidden = advice.hidden = true;
  advice.textContent = "";
}

function showStrength(answer) {
  const [meter, word] = strength.children;
  // An empty bar would look like no answer.
  meter.value = answer.score + 1;
  word.textContent = strength.dataset.scores.split("|")[answer.score];
  strength.hidden = false;
  advice.textContent = answer.hint;
  advice.hidden = answer.hint === "";
}

async function ask() {
  asking?.abort();
  asking = new AbortController();
  const fields = new URLSearchParams({ password: password.value });
  for (const name of ["username", "login", "lang"]) {
    const field = form.elements[name];
    if (field) fields.append(name === "login" ? "username" : name, field.value);
  }
  if (!fields.get("lang")) fields.set("lang", document.documentElement.lang);
  try {
    const answer = await fetch("strength", { method: "POST", body: fields, signal: asking.signal });
    if (answer.ok) showStrength(await answer.json());
    else hideStrength();
  } catch (error) {
    if (error.name !== "AbortError") hideStrength();
  }
}

function typed() {
  tell();
  clearTimeout(asked);
  if (password.value === "") {
    asking?.abort();
    hideStrength();
  } else {
    asked = setTimeout(ask, PAUSE);
  }
}
password.addEventListener("input", typed);

show.hidden = false;
show.addEventListener("click", () => {
  const isShown = show.getAttribute("aria-pressed") !== "true";
  show.setAttribute("aria-pressed", isShown);
  password.type = repeat.type = isShown ? "text" : "password";
});

form.addEventListener("submit", (event) => {
  clearTimeout(asked);
  if (form.dataset.sent) event.preventDefault();
  form.dataset.sent = "yes";
  // A browser may keep passwords that are shown as text.
  password.type = repeat.type = "password";
});
window.addEventListener("pageshow", () => {
  delete form.dataset.sent;
  tell();
});
