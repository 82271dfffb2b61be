"""The audit page: a local server where people look at samples and decide, over one workspace.

`server` runs it, `door` lets in who has the token, `access` reads whoever holds the file, and each page is a
module of its own that turns a request into SQL and SQL into a template. Templates and the little script
lie beside them; nothing is fetched from elsewhere.
"""
