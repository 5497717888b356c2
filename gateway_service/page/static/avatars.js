// The avatars to choose from, each by its still.

import { showPicture } from "./http.js";

const STILL_PX = 128;

/** Fills a fieldset with a choice of avatars; `chosen` is called with an id. Broken ones are shown with the reason. */
export function showAvatars(fieldset, avatars, current, chosen) {
  fieldset.querySelectorAll("label").forEach((label) => label.remove());
  fieldset.append(...avatars.map((avatar) => choice(avatar, avatar.id === current, chosen)));
}

function choice({ id, still, error }, checked, chosen) {
  const label = document.createElement("label");
  const input = Object.assign(document.createElement("input"), { type: "radio", name: "avatar", value: id, checked });
  input.disabled = Boolean(error);
  input.addEventListener("change", () => chosen(id));
  const image = Object.assign(document.createElement("img"), { alt: "", width: 64, height: 64, title: error || id });
  if (!error) showPicture(image, `${still}?width=${STILL_PX}`);
  const name = Object.assign(document.createElement("span"), { textContent: error ? `${id}: broken` : id });
  label.append(input, image, name);
  return label;
}

/** Marks the avatar that is shown. */
export function markAvatar(fieldset, id) {
  for (const input of fieldset.querySelectorAll("input")) input.checked = input.value === id;
}
