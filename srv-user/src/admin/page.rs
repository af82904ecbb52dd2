//! The page: one document that asks for nothing but the events and the policies of this process. Its
//! parts lie in `page/`: `charts.js` draws, `model.js` knows what the server said, `view.js` shows it.

/// The document.
pub(super) const PAGE: &str = concat!(
    "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n",
    "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n",
    "<link rel=\"icon\" href=\"data:,\">\n<title>srv</title>\n<style>\n",
    include_str!("page/page.css"),
    "</style>\n</head>\n<body>\n",
    include_str!("page/body.html"),
    "<script>\n\"use strict\";\n",
    include_str!("page/charts.js"),
    include_str!("page/model.js"),
    include_str!("page/view.js"),
    "</script>\n</body>\n</html>\n",
);

/// The page asks this process and no other; no other page may contain it.
pub(super) const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; \
     connect-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'";
