// <time datetime> as "3 min ago"; the full time stays in its title.
const STEPS = [[60, 1, "second"], [3600, 60, "minute"], [86400, 3600, "hour"], [86400 * 30, 86400, "day"]];
const words = new Intl.RelativeTimeFormat("en", { numeric: "auto", style: "short" });

export function showTimes(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const age = (Date.now() - Date.parse(time.dateTime)) / 1000;
    const step = STEPS.find(([most]) => Math.abs(age) < most);
    if (!step) continue; // a month and more: the date says it better
    const text = Math.abs(age) < 5 ? "just now" : words.format(-Math.round(age / step[1]), step[2]);
    if (time.textContent !== text) time.textContent = text;
  }
}
