//! Files of the page, each with its path. No other file is served.

/// A file of the page.
pub struct PageFile {
    /// Requested path.
    pub path: &'static str,
    /// Media type.
    pub media_type: &'static str,
    /// Content of the file.
    pub content: &'static str,
}

macro_rules! page_file {
    ($path:literal, $media_type:literal, $file:literal) => {
        PageFile { path: $path, media_type: $media_type, content: include_str!(concat!("page/", $file)) }
    };
}

/// All files of the page.
pub const PAGE: [PageFile; 11] = [
    page_file!("/", "text/html; charset=utf-8", "page.html"),
    page_file!("/page.css", "text/css; charset=utf-8", "page.css"),
    page_file!("/page.js", "text/javascript; charset=utf-8", "page.js"),
    page_file!("/query.js", "text/javascript; charset=utf-8", "query.js"),
    page_file!("/completion.js", "text/javascript; charset=utf-8", "completion.js"),
    page_file!("/layout.js", "text/javascript; charset=utf-8", "layout.js"),
    page_file!("/drawing.js", "text/javascript; charset=utf-8", "drawing.js"),
    page_file!("/editor.js", "text/javascript; charset=utf-8", "editor.js"),
    page_file!("/curve.js", "text/javascript; charset=utf-8", "curve.js"),
    page_file!("/having.js", "text/javascript; charset=utf-8", "having.js"),
    page_file!("/results.js", "text/javascript; charset=utf-8", "results.js"),
];
