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

// Copy buttons: a text that they name, or the texts of the step that they stand in.
document.documentElement.classList.add("has-scripts");
document.addEventListener("click", async (event) => {
  const button = event.target.closest?.("[data-copy], [data-copy-text]");
  if (!button) return;
  const texts = [...(button.closest("li, section")?.querySelectorAll("pre.text") ?? [])].map((one) => one.textContent);
  const label = button.textContent;
  try {
    await navigator.clipboard.writeText(button.dataset.copy ?? texts.join("\n\n"));
    button.textContent = "Copied";
  } catch {
    button.textContent = "The browser does not allow it";
  }
  setTimeout(() => (button.textContent = label), 1500);
});

showTimes(document);
setInterval(() => showTimes(document), 10_000);
follow();
