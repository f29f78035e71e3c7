"""Image sets as they are published: fetched at first use, verified every time, read without trust."""
