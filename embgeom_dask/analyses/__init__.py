"""One question, one module, one public function, and the steps that several of them share."""
