// The playground's answers as they come, a request for each side. Without scripts the form is sent as it is.
const form = document.getElementById("playground");
const stop = document.getElementById("stop");

if (form) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (!form.reportValidity() || form.dataset.busy) return;
    send();
  });
}

async function send() {
  const prompt = form.elements.prompt, button = form.querySelector("button.primary");
  const fields = new URLSearchParams(new FormData(form)), sides = ["a", "b"].filter((side) => fields.get(side));
  const stopping = new AbortController();
  form.dataset.busy = "true";
  button.disabled = true;
  stop.hidden = false;
  stop.onclick = () => stopping.abort();
  const done = await Promise.all(sides.map((side) => ask(side, new URLSearchParams(fields), stopping.signal)));
  delete form.dataset.busy;
  button.disabled = false;
  stop.hidden = true;
  if (done.some(Boolean)) prompt.value = "";
  prompt.focus();
}

// Whether it was answered.
async function ask(side, fields, signal) {
  const log = document.querySelector(`#side-${side} .conversation`);
  const state = form.elements[`state_${side}`], before = state.value ? JSON.parse(state.value) : [];
  fields.set("side", side);
  say(log, "user", "You", fields.get("prompt"));
  const answer = say(log, "assistant", "Answer", "");
  let text = "", reasoning = null, end = null, problem = null;
  try {
    const reply = await fetch(form.dataset.stream, { method: "POST", body: fields, signal, redirect: "manual" });
    if (reply.type === "opaqueredirect") return location.reload();
    for await (const line of lines(reply)) {
      if (line.problem) problem = line.problem;
      if (line.reasoning) {
        reasoning ??= said(answer, "Reasoning");
        reasoning.textContent += line.reasoning;
      }
      if (line.text) answer.querySelector("pre").textContent = text += line.text;
      if ("end" in line) end = line;
      log.scrollTop = log.scrollHeight;
    }
  } catch (error) {
    problem = signal.aborted ? "Stopped" : "The answer broke off";
  }
  if (end) {
    note(answer, [end.by ?? "base weights", `${end.num_tokens} token${end.num_tokens === 1 ? "" : "s"}`, end.end ?? "–"], end.trace);
    state.value = JSON.stringify([...before, { role: "user", content: fields.get("prompt") }, { role: "assistant", content: text }]);
    if (end.trace) form.elements[`trace_${side}`].value = end.trace;
    return true;
  }
  const shown = document.createElement("p");
  shown.className = "problem";
  shown.setAttribute("role", "alert");
  shown.textContent = `${(problem ?? "The answer broke off").replace(/^./, (first) => first.toUpperCase()).replace(/\.$/, "")}.`;
  answer.append(shown);
  return false;
}

async function* lines(reply) {
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  for (;;) {
    const { value, done } = await reader.read();
    waiting += value ?? "";
    const parts = waiting.split("\n");
    waiting = parts.pop();
    for (const part of done && waiting ? [...parts, waiting] : parts) if (part) yield JSON.parse(part);
    if (done) return;
  }
}

function say(log, role, name, text) {
  const said = document.createElement("article"), by = document.createElement("p"), shown = document.createElement("pre");
  said.className = `said by-${role}`;
  by.className = "small muted";
  by.textContent = name;
  shown.className = "text";
  shown.textContent = text;
  said.append(by, shown);
  log.append(said);
  log.scrollTop = log.scrollHeight;
  return said;
}

function said(answer, name) {
  const details = document.createElement("details"), summary = document.createElement("summary"), text = document.createElement("pre");
  summary.textContent = name;
  text.className = "text";
  details.append(summary, text);
  answer.insertBefore(details, answer.querySelector("pre"));
  return text;
}

function note(answer, words, trace) {
  const shown = document.createElement("p");
  shown.className = "small muted";
  shown.textContent = words.join(" · ");
  if (trace) {
    const link = document.createElement("a");
    link.href = `/trace/${trace}`;
    link.textContent = "rollout";
    shown.append(" · ", link);
  }
  answer.append(shown);
}
