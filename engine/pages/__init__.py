"""What is read in a browser or looked at as a picture: pages and plots about runs."""
