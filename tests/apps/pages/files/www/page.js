document.getElementById("kept").textContent = localStorage.getItem("kept") || "nothing kept";
document.getElementById("open").addEventListener("click", () => window.open("/second.html"));
