// For screen readers and keyboards: names of what the theme's script adds, and tables that keys can scroll.
const name = () => {
  document.querySelectorAll(".md-code__nav").forEach((nav, number) => nav.setAttribute("aria-label", `Block ${number + 1}`));
  document.querySelectorAll(".md-typeset__scrollwrap").forEach((table) => (table.tabIndex = 0));
};
new MutationObserver(name).observe(document.body, { childList: true, subtree: true });
name();
