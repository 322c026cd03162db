"""Models of every framework: recognise, pack into a bundle, open on executors."""
