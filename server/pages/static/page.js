// Every page: times in words, the theme button, slow forms, fields to copy, and regions that follow the server.
import { follow } from "./live.js";
import { showTimes } from "./times.js";

const theme = document.getElementById("theme");
theme.addEventListener("click", () => {
  const root = document.documentElement;
  const isDark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = isDark ? "light" : "dark";
  document.cookie = `headway_theme=${root.dataset.theme}; path=/; max-age=31536000; samesite=lax`;
  dispatchEvent(new Event("themechange"));
});

for (const form of document.querySelectorAll("form[data-slow]")) {
  form.addEventListener("submit", () => {
    const button = form.querySelector("button");
    button.disabled = true;
    button.textContent = form.dataset.slow;
  });
}

// What is there to be copied is selected whole.
for (const field of document.querySelectorAll("input[readonly]")) {
  field.addEventListener("focus", () => field.select());
  if (field === document.activeElement) field.select();
}

showTimes(document);
setInterval(() => showTimes(document), 10_000);
follow();
