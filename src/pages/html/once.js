// Sends a form once, and prints and copies recovery codes. Without it the page works too.
"use strict";
const form = document.querySelector("form");
if (form) {
  form.addEventListener("submit", (event) => {
    if (form.dataset.sent) event.preventDefault();
    form.dataset.sent = "yes";
  });
  window.addEventListener("pageshow", () => delete form.dataset.sent);
}

const print = document.querySelector("[data-print]");
if (print) {
  print.hidden = false;
  print.addEventListener("click", () => window.print());
}

// Browsers have the clipboard only over HTTPS and on this machine.
const copy = document.querySelector("[data-copy]");
if (copy && navigator.clipboard) {
  copy.hidden = false;
  copy.addEventListener("click", async () => {
    const codes = [...document.querySelectorAll(".codes li")].map((code) => code.textContent);
    await navigator.clipboard.writeText(codes.join("\n"));
    // The one is seen, the other is read out.
    copy.textContent = document.querySelector("[role=status]").textContent = copy.dataset.copy;
  });
}
