// Every target has a colour of its own, the same in all places; the name always stands beside it.

const COUNT = 8;
const given = new Map();

/** Return the CSS class of a target's colour. Whoever comes first chooses first, so that few are alike. */
export function colour(target) {
  if (target === null) return "bare";
  if (!given.has(target)) given.set(target, `c${given.size % COUNT}`);
  return given.get(target);
}

/** Give colours in the order of names, so that they are the same after a reload. */
export function giveColours(targets) {
  for (const target of [...targets].sort()) colour(target);
}
