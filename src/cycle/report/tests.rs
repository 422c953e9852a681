mod page;
mod sample;
mod xml;
