// What all modules need of the page.

export const element = (id) => document.getElementById(id);

/** Tell it to those who listen to the page instead of looking at it. */
export const announce = (text) => { element("spoken").textContent = text; };

export const millions = (number) => Number((number / 1e6).toFixed(1));

export const megabytes = (numBytes) => `${millions(numBytes)} MB`;
