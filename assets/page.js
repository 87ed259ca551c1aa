// What a script makes easier: copying a secret, and seeing a pasted list understood while it is typed.
// Everything works without it.
"use strict";

for (const button of document.querySelectorAll("[data-copy]")) {
  const field = document.getElementById(button.dataset.copy);
  const said = button.parentElement.querySelector("[role=status]");
  button.hidden = false;
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(field.value);
    } catch {
      // No clipboard without TLS: the older way.
      field.select();
      if (!document.execCommand("copy")) {
        said.textContent = "Selected: copy it with your keyboard";
        return;
      }
    }
    said.textContent = "Copied";
  });
}

for (const form of document.querySelectorAll("form[data-preview]")) {
  const review = document.getElementById("review");
  let timer;
  let newest = 0;
  const preview = async () => {
    const turn = ++newest;
    try {
      const answer = await fetch(form.dataset.preview, {
        method: "POST",
        body: new URLSearchParams(new FormData(form)),
        credentials: "same-origin",
      });
      const text = await answer.text();
      // Made of our own template, which escapes what was typed; scripts in it would not run.
      if (turn !== newest) return;
      if (answer.ok) review.innerHTML = text;
      else review.textContent = "This can't be checked while you type any more. Press Review.";
    } catch {
      if (turn === newest) review.textContent = "The server can't be reached right now.";
    }
  };
  form.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(preview, 250);
  });
}
