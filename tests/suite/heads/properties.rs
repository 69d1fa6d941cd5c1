//! Whatever is asked, what was judged is what is forwarded.
