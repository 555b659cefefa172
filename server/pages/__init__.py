"""The pages: what a person sees of a box in a browser. Server-rendered; scripts only keep them up to date.

A folder for each noun, with its pages, what their forms do, and their templates (`models/list.html`); `shared` has what
they stand on. A page is a route on a `PageRoute` router that takes a `VisitorDep` and returns `page(...)`. What stands
in an element with `data-live` and an id is replaced while the page is open, whenever the server would render it
differently.
"""
