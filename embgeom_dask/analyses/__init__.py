"""One question, one module, one public function; `many` asks it of many stores."""
